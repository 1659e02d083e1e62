"""Side-by-side measurements of Palate and its peers; `python -m bench --help` says how to run one."""
