"""Continue a text, and print each piece as soon as it is generated.

python examples/complete.py "Once upon a time" [BUNDLE]

Without BUNDLE, the script runs the demo GPT-2, which continues fairy tales.
"""

import sys

from edgeseq.runtime import load

if len(sys.argv) < 2:
    sys.exit(__doc__)
text, *bundle = sys.argv[1:]
for piece in load(*bundle).stream(text, max_new_tokens=60, do_sample=True, top_p=0.9):
    print(piece, end="", flush=True)
print()
