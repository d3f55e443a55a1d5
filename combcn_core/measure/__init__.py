"""Measures of how good a result is.

`metrics` compares a result with the truth; `evaluate` scores methods on the clips and holes of
`trials`, `scores` keeps and prints the scores.
`predict` estimates how well a removal will come out on its own clip, from areas that `placements`
finds.
"""
