"""Policy and verdict. Facts in, one answer out, with every reason. No I/O, no clock."""
