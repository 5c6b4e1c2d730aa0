"""Intel TDX: what its guests show, and how Linux lets them."""
