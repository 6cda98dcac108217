"""The vendors' own pages, and the examples in them."""

import os
import pathlib
import re


def page(name):
    """The text of a page of `hosted-apis/`."""
    return (pathlib.Path(os.environ["LATENTSYNC_SHARED"]) / "hosted-apis" / name).read_text()


def examples(name, language):
    """The fenced examples in a language, in their order on the page."""
    # One of the pages has lost its ends of lines: what was a continued line is then an escaped space.
    blocks = re.findall(rf"```{language}\s+(.*?)```", page(name), re.DOTALL)
    return [re.sub(r"\\ +(?=-)", "", block) for block in blocks]
