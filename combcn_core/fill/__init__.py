"""Holes filled without weights: with what other frames show, then from the shot's own look.

`window` holds the frames of a segment and their motion, `propagate` fills them with what others
show, and `unseen` with the smooth fill. In this order they use

- `motion`: optical flow between neighbours, completed inside holes; `settle`: and made consistent
  in time, as neighbouring frames have seen what is hidden now; `early`: both, also while frames are
  still being read.
- `trace`: hole pixels followed along it until they come out of the hole.
- `plate`: what a still camera shows over time.
- `register`: source frames registered directly to a key frame, without a chain of steps.
- `levels`: by how much one frame is brighter than another; `keys`: both for every eighth frame.
- `choose`: which source fills a region.
- `merge`: which traces are sure enough, and what fills a pixel among all that was found for it;
  `blur`: as sharp as its frame is.
- `smooth`: membrane and push-pull, for what no frame shows.
- `texture`: the look of the shot itself, in place of the smooth fill; `carry` keeps it steady.
- `grain`: the grain that filled areas lack.

`stages` offers propagation, the smooth fill and texture one by one, on whole clips as tensors.
`follow` and `shadows` help the mask before anything is filled: drawn on some frames it is carried
to the others; and it grows by what belongs to its `objects`.
`cuts` finds where a shot ends: nothing crosses it. Arrays are NumPy, see `pixels`.
"""
