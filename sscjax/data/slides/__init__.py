"""Whole slides to tiles: `sscjax slides SLIDES --out=FOLDER`.

`reading` opens a slide of any kind, `tissue` says where there is something to see, `tiling` cuts by
`Settings`, `folder` keeps what was cut, `program` is the command line.
"""
