"""The page, `diffedit-min app`: pictures edited in a browser. It holds no algorithm, and needs the extra `app`.

    command      the options, and the server
    guard        which requests reach the server at all
    files        where its files lie, and when they go
    page         the page, ready to be served, and which part of it answers to what
    layout       what is on the page (page.css: how it looks; page.js: what the browser does by itself)
    components   Gradio's components, with a way of their own to read what a browser sends
    controls     the options of methods as controls, made from their declarations

What answers when a person does something there:

    choosing     model, method, preset and options are chosen
    opening      there is another picture: a file, a scene, an earlier result, what was there before a reload
    masking      the mask is found, cut and shown
    editing      "Edit"
    running      what uses a model: shown as it goes, and stopped
    results      an edit is done: its picture, figures, files and report, and the last results
    comparisons  grids of options, and methods beside each other
    saying       errors are said in the page

What they use:

    session      what one person has done so far, and what is kept of it from one edit to the next
    sessions     those of all people: found again after a reload, and bounded together
    chain        the edit at a glance, as a row of pictures with a sentence each
    words        what the page says of methods, masks and edits
    canvas       the mask as a text of cells, and back; painting: its component, which canvas.js draws
    around       what is done around the edit: a mask that grows, a seam, a part that is cut out
"""
