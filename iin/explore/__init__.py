"""What a data set holds: pictures, what pairs share, labels, ranges of values, and what looks odd.

`describe` looks at a data set and nothing else: ``__len__`` and ``__getitem__(indices)`` are all that it needs.
`render` makes a page of what it found, one file of HTML in which nothing is fetched and nothing runs; `picture` makes a
picture. What is drawn at random hangs on the seed alone, so the same set gives the same page, byte for byte.

``content`` is what is found, ``looking`` finds it, ``page`` and ``drawing`` show it, ``files`` opens and saves.
``layers`` lists what a network consists of.
"""

from iin.explore.content import Content, Factor, Item, Spread
from iin.explore.drawing import picture
from iin.explore.files import check_path, open_data, save
from iin.explore.layers import layers_of_config, layers_of_network, table
from iin.explore.looking import describe
from iin.explore.page import render

__all__ = [
    "Content",
    "Factor",
    "Item",
    "Spread",
    "check_path",
    "describe",
    "layers_of_config",
    "layers_of_network",
    "open_data",
    "picture",
    "render",
    "save",
    "table",
]
