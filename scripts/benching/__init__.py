"""The benchmark's parts.

``bench`` holds the servers that all share, ``plantain`` and ``apps`` are what is measured, ``parts`` measure, ``load``
and ``provider`` are the two ends of every request (each a process of its own, as cheap as Python allows),
``meters`` count CPU and memory, ``report`` makes tables of it.
"""
