"""Speed, start, memory and size of edgeseq beside other programs: see benchmarks/README.md."""
