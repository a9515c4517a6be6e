"""Extract facts from a text by their names.

python examples/extract.py "Anna moved to Oslo in May." name,city [BUNDLE]

Without BUNDLE, the script runs the demo GPT-2, which knows only fairy tales. Its answer shows that
the script works, but it is not useful.
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 3:
    sys.exit(__doc__)
text, names, *bundle = sys.argv[1:]
model = load(*bundle)
for what in names.split(","):
    print(f"{what}: {model.run('extraction', text, what=what).text}")
