"""Policy and verdict: judge the facts of a document and give every reason. No I/O, no clock."""
