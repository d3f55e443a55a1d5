"""What all tests need."""

import signal

# Started in the background by a shell, this process ignores Ctrl-C, and so would the commands that
# tests start and send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
