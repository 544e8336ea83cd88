"""placeholder"""

TASKS = {
    "noise": "noise",
    "blur": "motion blur",
    "rain": "rain",
    "inpaint": "scribbles",
    "low_light": "low light",
    "jpeg": "JPEG",
}
