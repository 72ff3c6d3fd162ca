"""The outputs of many commands, committed to the byte: what moves code must not move figures.

`commands.py` names the commands, `outputs/` and `texts/` hold what each of them ended with (exit status,
standard output, files written), and `history.json` the digest of every output under every results version.
An output changes with `RESULTS_VERSION` of `sim/version.py` alone; a text (tables and error lines for people)
may be worded anew at any time. Both are rewritten by `python -m tests.frozen.rewrite`.

Masked, so that the bytes are those of any machine on any day:

- of a sentence in an output (a JSON string of five words or more, or what a plan says and assumes) only the
  numbers are kept: its words may change without a figure changing, and `texts/` has examples of them;
- floats are rounded to 10 significant digits, those of a fitted profile and of texts to 6: the last ones
  depend on the linear algebra and the vector instructions of the machine;
- the package version is VERSION: a release changes no figure;
- digests (keys of sweep points and of a plan's runs) are KEY: they hold both versions and change with either;
- the date of a fitted profile is DATE.

Commands run in an empty folder that holds a copy of `inputs/`, so no path of a machine is in any output.
Pictures and reports are left out: their bytes depend on the libraries that draw them.
"""
