"""The page, `diffedit-min app`: pictures edited in a browser. It holds no algorithm, and needs the extra `app`.

    command      the options, and the server
    guard        which requests reach the server at all
    files        where its files lie, and when they go
    layout       what is on the page
    controls     the options of methods as controls, made from their declarations
    page         what answers when a person does something there
    words        what it says of methods, masks and edits
    session      what one person has done so far, and what is kept of it from one edit to the next
    canvas       the mask as the browser holds it; canvas.js, with which it is painted
    painting     the canvas as a component
    around       what is done around the method: the mask grown, a part cut out, what is outside kept
"""
