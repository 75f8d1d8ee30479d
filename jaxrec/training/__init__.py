"""The heart: one step and one loop for every stage. Nothing here knows a model.

partition   what trains is a rule over parameter paths
gradients   how gradients are taken: summed, cached (losses that span the batch), clipped (private)
optimizer   AdamW and its schedule
step        the jitted step
loop        sources in, checkpoints and metrics out: resume, early stop, SIGTERM, NaN
"""
