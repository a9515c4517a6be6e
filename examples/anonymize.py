"""Replace names, addresses and numbers that tell who somebody is; read what comes of it.

python examples/anonymize.py "Call Anna Berg at 555-0123." [BUNDLE]

The demo model, in the place of a BUNDLE, knows fairy tales alone: see that it works, no more.
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 2:
    sys.exit(__doc__)
text, *bundle = sys.argv[1:]
print(load(*bundle).run("anonymization", text).text)
