"""Examples in the vendors' documentation pages."""

import os
import pathlib
import re


def page(name):
    """The text of a page in `hosted-apis/` of the shared material."""
    return (pathlib.Path(os.environ["LATENTSYNC_SHARED"]) / "hosted-apis" / name).read_text()


def examples(name, language):
    """The fenced code blocks in a language, in the order of the page."""
    # One of the pages has no line breaks: a continued line is then an escaped space.
    blocks = re.findall(rf"```{language}\s+(.*?)```", page(name), re.DOTALL)
    return [re.sub(r"\\ +(?=-)", "", block) for block in blocks]
