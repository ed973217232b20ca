"""The provider simulator: an HTTP server that imitates the Gemini REST form and the gateway form on loopback.

It is an independent reading of the wire formats: it imports nothing from `shared`, so that a mistake there is
not repeated here and hidden. Usage, controls and every fault: docs/simulator.md.
"""
