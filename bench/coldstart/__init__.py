"""How long a cold model takes to its first token: Hydrant beside the naive way, on real SGLang over real links."""
