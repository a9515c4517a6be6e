"""Find things in a text, each by its name.

python examples/extract.py "Anna moved to Oslo in May." name,city [BUNDLE]

The demo model, in the place of a BUNDLE, knows fairy tales alone: see that it works, no more.
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 3:
    sys.exit(__doc__)
text, names, *bundle = sys.argv[1:]
model = load(*bundle)
for what in names.split(","):
    print(f"{what}: {model.run('extraction', text, what=what).text}")
