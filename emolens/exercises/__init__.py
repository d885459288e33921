"""Checks of the notebooks' exercises: they say what is wrong with an answer, and do not give it away.

One module for each notebook, one function for each exercise. In the notebook:

    from emolens import exercises
    mine = ...  # your turn
    exercises.quickstart.own_score(mine, readout)
"""
