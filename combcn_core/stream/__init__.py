"""Files of any length: read, filled segment by segment, and written.

`files` is the way from one file to another, `overlap` the threads that read and write meanwhile,
`memory` what a segment takes, `store` the finished segments of a run that may be resumed, `batch`
many shots, on one machine or a cluster.
"""
