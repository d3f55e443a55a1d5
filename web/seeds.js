// A new node keeps its seed: another clip, other holes or another training with every Run would be a surprise.
import { app } from "../../scripts/app.js";

app.registerExtension({
    name: "CombCN.seeds",
    nodeCreated(node) {
        if (!node.comfyClass?.startsWith("CombCN_")) return;
        const controls = (node.widgets ?? []).flatMap(({ linkedWidgets }) => linkedWidgets ?? []);
        for (const control of controls) control.value = "fixed";
    },
});
