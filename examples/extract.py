"""Extract several facts from a text, each by its name.

python examples/extract.py "Anna moved to Oslo in May." name,city [BUNDLE]

Without a BUNDLE the demo model answers. It knows only fairy tales: its answer shows that the script
works, but is not useful.
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 3:
    sys.exit(__doc__)
text, names, *bundle = sys.argv[1:]
model = load(*bundle)
for what in names.split(","):
    print(f"{what}: {model.run('extraction', text, what=what).text}")
