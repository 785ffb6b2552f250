"""Let what of a study is not trained yet take other rates; what is trained keeps those that it had."""

import shutil
import warnings
from pathlib import Path

from kdviz.arguments import name_some
from kdviz.errors import KdvizWarning, StoreError
from kdviz.files import exclusive, lock_beside, read_json, write_json
from kdviz.studies.plans import STUDY_FILE, StudyPlan
from kdviz.studies.tasks import BEGUN_FILE, RATES, Layout, is_trained


def change_rates(folder: Path, plan: StudyPlan) -> str:
    """Give a study that is partly trained the `rate_factor` of a plan, and note what its networks had.

    Nothing else of a training can be changed later: networks of other epochs or samples are not compared. A
    training that was begun and not finished begins anew.

    Parameters
    ----------
    folder
        Of the study; one without is left as it is.
    plan
        What it is to be continued with; it may also grow.

    Returns
    -------
    str
        Which networks keep which factor, in one line; empty if nothing changes.

    Raises
    ------
    StoreError
        If the plan differs in more, every network is trained, or something is measured or asked; if another
        process works on the study.
    """
    path, new = folder / STUDY_FILE, plan.training.rate_factor
    if not path.exists():
        return ""
    with exclusive(lock_beside(path), folder):
        with warnings.catch_warnings(action="ignore", category=KdvizWarning):  # whoever trains it says them
            stored = StudyPlan.load(folder)
        if stored.training.rate_factor == new:
            return ""
        training = stored.training.model_copy(update={"rate_factor": new})
        changed = stored.model_copy(update={"training": training})
        plan.check_grown(changed, folder)
        study, old = Layout(folder, stored), stored.training.rate_factor
        first = {one: next(iter(study.training_folders(one)), None) for one in study.subjects()}
        kept = {one.name: study.rate_factor(one) for one, at in first.items() if at and is_trained(at)}
        asked = Layout(folder, plan)
        if all(one.name in kept for one in asked.subjects() if asked.training_folders(one)):
            raise StoreError(
                f"all networks of {folder} are trained, with training.rate_factor {old:g}, so nothing is "
                f"left to take {new:g}; choose another folder"
            )
        if study.run_path.is_dir():
            raise StoreError(
                f"{study.run_path} holds networks trained with training.rate_factor {old:g}, now {new:g}; "
                "choose another folder"
            )
        anew = [one for one, at in first.items() if at and at.is_dir() and one.name not in kept]
        for one in anew:
            shutil.rmtree(study.network_folder(one))
        file = folder / BEGUN_FILE
        begun = read_json(file, remove=file) if file.exists() else {}
        if "plan" in begun:
            begun["plan"]["training.rate_factor"] = new
        write_json(file, begun | {RATES: kept})
        changed.write(folder)
    told = [
        f"{name_some(name for name in kept if kept[name] == rate)} keep {rate:g}"
        for rate in dict.fromkeys(kept.values())
    ]
    told += [f"{name_some(one.name for one in anew)} begin anew"] if anew else []
    told += ["students and baselines of unlike rates differ in more than the teacher"] if kept else []
    return "; ".join([f"training.rate_factor {new:g} is for what is not trained yet", *told])
