"""What an edit costs, and how near that is to what the machine can do: `diffedit-min speed`.

    machine     the processor, and its own ceilings: matrix product, memory copy
    shapes      full-size networks with random weights: they cost what trained ones cost
    rival       another program that does the same work: what a file for --against has to hold
    plan        what is measured, in which order, in rounds; what is on disk is not measured again
    networks    the U-Net, the VAE, the kinds of operation, torch.compile
    edits       a whole edit, its overhead, and what it would cost at a larger size
    memory      the peak memory of an edit, in a process of its own
    report      tables: medians, shares of the ceilings, ratios
    command     `diffedit-min speed`

Programs take turns, and the ceilings are measured in between: who else uses the machine shows up in the ceilings, so
that a ratio holds where a time doesn't.
"""
