"""Planners over any tracks and levels: the systems that LeVo 2 is compared with, as configurations of one planner."""
