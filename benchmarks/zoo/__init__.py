"""A zoo of networks that differ in kind, on which kdviz is compared with the authors' procedure.

Modules, each importing only from those before it: ``photographs`` (what image networks learn), ``networks``
(all kinds, trained on demand), ``cases`` (a layer of one with samples, as both procedures need it),
``references`` (long runs of the authors' procedure, stored), ``comparing`` (the benchmark). ``tables`` says
what of the results is shown.
"""
