"""Make the children of the embedded base model: `make posttrain`.

The two that ship with the package are trained again where their files were deleted; the five control fine-tunes go to
the user's cache. About an hour on two cores; what was interrupted goes on.
"""

import emolens as el
from emolens.training import packaged_children as children

base = el.load(children.BASE)
for manner in children.DIALOGUES:
    child = children.train(base, manner)
    print(f"{child.curve().headline()} {child.path.stat().st_size / 1e6:.2f} MB, {child.record['seconds']:.0f} s")
for child in children.null_children(base):
    print(f"{child.curve().headline()} {child.record['seconds']:.0f} s")
