"""Whole slides to tiles: `sscjax slides SLIDES --out=FOLDER`.

`reader` opens a slide of any kind, `tissue` finds where it holds tissue, `tiling` cuts tiles by its
`Settings`, `stain` normalises them, `output` writes their folder, and `cut` does all of it.
"""
