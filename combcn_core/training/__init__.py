"""Training: clips with holes made from footage, losses, and the loop.

`config` has the settings and says what is trained when. `footage` finds what to learn from, `draw`
cuts a clip out of it, `holes` makes its hole, `batches` numbers and stacks clips that `workers`
prepare. `train` is the loop: `step` moves the weights by `losses`, in `precision`, `validate` looks
at clips held back, `state` is what a training goes on from, `calibrate` finishes the weights,
`processes` is for several at once, and `log` is written beside the checkpoint.
"""


class TrainingDiverged(RuntimeError):
    """A loss or gradient is not a number any more; the last checkpoint is kept."""
