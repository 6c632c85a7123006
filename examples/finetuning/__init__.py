"""What the three fine-tuning scripts share: everything that is not a framework's own.

`arguments` is their command line, `data` and `batches` what they read, `scores` what they measure, `training` the loop
around one framework's steps, `states` how a run is continued, and `reports` what it leaves for people to look at.
"""
