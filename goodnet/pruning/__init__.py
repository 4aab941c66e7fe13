"""The method: layer choice, first pass, ranking, sweep, stop rule, and a check of what is saved."""
