"""Edits of files: one, or many of them with one model.

    job.py          an edit as it is asked for, checked before any work
    like.py         ... by the settings in an earlier result
    table.py        ... by a line of a table
    editing.py      jobs -> pictures: cut out, mask, edit, put back
    run.py          many jobs: what is done already, batches, what fails
"""
