"""Cost of a compiled program: HLO counts, FLOPs and models of chips."""
