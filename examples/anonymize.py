"""Replace names, addresses and numbers that identify a person; check the result.

python examples/anonymize.py "Call Anna Berg at 555-0123." [BUNDLE]

Without a BUNDLE the demo model answers. It knows only fairy tales: its answer shows that the script
works, but is not useful.
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 2:
    sys.exit(__doc__)
text, *bundle = sys.argv[1:]
print(load(*bundle).run("anonymization", text).text)
