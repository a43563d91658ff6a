"""The paper's benchmark: methods on datasets, trade-off curves; `diffedit-min bench` (section 4 of arXiv:2210.11427).

    datasets    what is edited, read from each set's own files
    metrics     what is measured of an edit, or of all edits of a method
    measures    the edits whose true answers are known, and what can be measured of them
    variants    methods with settings, a sweep's points; and the edits of some pictures at all of them, nothing computed
                twice
    presets     the paper's comparison and ablations, and what fewer U-Net rows cost, as variants
    store       results on disk, so that a run or a study can be stopped anywhere and taken up again
    run         the loop over it all, one machine's share of it
    report      averages with their intervals, tables and contact sheets from the results; curves, the trade-off curves
    tables      rows of cells as Markdown and as CSV
    known       how well each method does where true answers are known; how the mask's rule was chosen
    theory      Proposition 1 measured: Figure 3 with a model's own constants
    dtypes      what rounding changes, against what the method changes by itself
    speed       the networks and a whole edit against the machine's ceilings; programs: what it measures

`studio/bench_command.py` is the command; under torchrun it is `python -m diffedit_min bench`.
"""
