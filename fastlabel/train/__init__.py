"""Training teachers and students."""

from fastlabel.train.common import Result
from fastlabel.train.loop import Reporter
from fastlabel.train.recipes import Recipe
from fastlabel.train.student import StudentConfig, train_student
from fastlabel.train.teacher import TeacherConfig, train_teacher

__all__ = ["Recipe", "Reporter", "Result", "StudentConfig", "TeacherConfig", "train_student", "train_teacher"]
