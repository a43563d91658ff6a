"""The page, `diffedit-min app`: pictures edited in a browser. It holds no algorithm, and needs the extra `app`.

    command      the options, and the server
    page         what is on the page, and which function answers what is done there: the only file that knows gradio
    session      what one person has done so far, and what is kept of it from one edit to the next
    canvas       masks as a layer to paint on, and back
    shelf        which models the page may load
"""
