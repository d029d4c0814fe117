"""Rendering of templates, in processes that can be ended (docs/adr/0012).

`sandbox` and `zygote` run in those processes and import nothing else of this project; `renderer` is the planner's side.
"""
