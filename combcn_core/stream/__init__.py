"""Files of any length: read, filled segment by segment, and written.

`files` is the way from one file to another. `source` opens and reads a clip with its masks,
`schedule` says which segment is computed when, `memory` how long it may be by what it takes.
`room` sees whether the disk holds the result, `run` fills segments, `report` counts. `overlap` has
the threads that read and write meanwhile, `store` the finished segments of a run that may be
resumed and `work` what is known of one that is under way, `batch` many shots, on one machine or a
cluster.
"""
