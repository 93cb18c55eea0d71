"""A cluster in memory, in which requests arrive and the controller's own decisions are carried out.

Discrete events, deterministic by seed. What is simulated is the world: links, start-up, serving, host memory. What is
decided comes from `orchestrator.reconcile`, the function that the controller calls.
"""
