"""Search over what a run is: a space of configs, what a trial is judged by, and what has been tried."""
