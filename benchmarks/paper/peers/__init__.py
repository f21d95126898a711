"""The methods of other papers that the benchmark compares with (Table 1), written anew on this package's tower."""
