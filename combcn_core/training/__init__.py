"""Training: clips with holes made from footage, losses, and the loop.

`data` cuts clips from footage, `holes` makes holes, `losses` says how wrong a result is, `train`
is the loop with its state, `log` what it writes beside the checkpoint.
"""
