"""How good a result is.

`metrics` compares a result with the truth, `appearance` with the look of what surrounds it;
`evaluate` scores methods on clips, `scores` keeps and prints the scores, and `predict` estimates
how well a removal will come out on its own clip.
"""
