"""Find things in a text, each by its name.

python examples/extract.py "Anna moved to Oslo in May." name,city [BUNDLE]
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 3:
    sys.exit(__doc__)
text, names, *bundle = sys.argv[1:]
model = load(*bundle)
for what in names.split(","):
    print(f"{what}: {model.run('extraction', text, what=what).text}")
