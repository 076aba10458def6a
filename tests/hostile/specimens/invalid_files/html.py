<!DOCTYPE html>
<html><body>train.py</body></html>
