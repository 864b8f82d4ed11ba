"""The same command in many processes, on this machine or a cluster: started, watched, started again when they fail.

Engines only start processes. What there is to do, and who does it, is in the store's own journal and claims.
"""
