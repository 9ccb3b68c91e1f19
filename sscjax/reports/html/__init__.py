"""A run's folder, or a cross-validation's, as one page to read and to print, and as a model card.

`report.html` holds everything it shows: no script, no font, nothing that a browser would fetch.
`sscjax report RUN` makes both again from the folder alone.
"""

from sscjax.reports.html.render import write, write_again
from sscjax.system.run_dir import CARD, PAGE

__all__ = ["CARD", "PAGE", "write", "write_again"]
