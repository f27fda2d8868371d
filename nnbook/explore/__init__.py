"""Explorables: widgets that are alive in Jupyter and on the static page, one module a chapter.

An explorable is a pure function from parameters to a figure, with the controls that set its parameters
(:mod:`nnbook.explore.core`). In a notebook its name at the end of a cell shows it. The page about explorables says how
to add one.
"""
