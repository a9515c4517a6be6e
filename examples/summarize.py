"""Summarize several files at once with a T5 model such as t5-small.

python examples/summarize.py t5-small-bundle article.txt ...
"""

import sys
from pathlib import Path

from edgeseq.runtime import pipeline

if len(sys.argv) < 3:
    sys.exit(__doc__)
bundle, *names = sys.argv[1:]
texts = [Path(name).read_text(encoding="utf-8") for name in names]
for record in pipeline("summarization", bundle)(texts, max_new_tokens=80):
    print(record["summary_text"])
