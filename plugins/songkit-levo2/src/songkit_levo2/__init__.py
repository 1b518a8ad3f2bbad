"""LeVo and LeVo 2: the LeLM planner and refiner, the music codec, and the tasks that train them."""
